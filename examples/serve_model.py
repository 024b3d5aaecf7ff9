"""Serves a trained classifier over HTTP, with Python's own server.

``python -m examples.serve_model`` loads a finished run, or by default the small model that comes
with the experiments, and answers posted images::

    curl --data-binary @digit.png http://127.0.0.1:8000/predict

The answer is JSON: the class, the probabilities of all classes, and theta. ``GET /`` tells of the
model. Requests are answered one after the other. The server listens to this machine alone; put one
that is made for the open net, such as nginx, in front of it to serve others.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tyro
from PIL import Image

from experiments import pretrained
from experiments.classification.trained import Trained, load_run
from experiments.data.examples import decoding

# Larger bodies are refused, unread.
LARGEST_BODY = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      run: The folder of a finished run of a classifier, or its file.
      seed: The training to take, of a run of several seeds; the first by default.
      invert: Swap dark and bright, for dark ink on paper.
      port: The port; 0 takes a free one.
      requests: Stop after this many requests; go on until Ctrl-C by default.
    """

    run: tyro.conf.Positional[Path] = pretrained.FILE
    seed: int | None = None
    invert: bool = False
    port: int = 8000
    requests: int | None = None


class Handler(BaseHTTPRequestHandler):
    """Answers a request; a class of its own for each model, by :func:`make_server`."""

    trained: ClassVar[Trained]
    invert: ClassVar[bool]

    def do_GET(self) -> None:
        """Tells of the model."""
        if self.path != "/":
            self._answer(404, {"error": f"there is no {self.path}; post an image to /predict."})
            return
        pipeline = self.trained.pipeline
        about = {"model": pipeline.run.model, "classes": pipeline.num_classes}
        self._answer(200, about | {"input_shape": pipeline.input_shape})

    def do_POST(self) -> None:
        """Classifies the image in the body."""
        if self.path != "/predict":
            self._answer(404, {"error": f"there is no {self.path}; post an image to /predict."})
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or not 0 < int(length) <= LARGEST_BODY:
            # The body is unread, so the connection cannot go on.
            self.close_connection = True
            error = f"the body must be an image of 1 to {LARGEST_BODY:,} bytes; got {length!r}."
            self._answer(413 if length.isdigit() and int(length) else 411, {"error": error})
            return
        try:
            answer = classify(self.trained, self.rfile.read(int(length)), invert=self.invert)
        except ValueError as error:
            self._answer(400, {"error": str(error)})
            return
        self._answer(200, answer)

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def classify(trained: Trained, content: bytes, *, invert: bool = False) -> dict[str, Any]:
    """The answer for an image file's content.

    Raises:
      ValueError: If it is no readable image.
    """
    with decoding("the body"), Image.open(io.BytesIO(content)) as picture:
        image = trained.pipeline.from_picture(picture, invert=invert)
    prediction = trained.predict(image[None])
    return {
        "label": int(prediction.labels[0]),
        "name": trained.pipeline.name(int(prediction.labels[0])),
        "probabilities": prediction.probabilities[0].tolist(),
        "theta": None if prediction.theta is None else prediction.theta[0].tolist(),
    }


def make_server(trained: Trained, *, port: int, invert: bool = False) -> HTTPServer:
    """A server on this machine; the model is compiled first, so that no request waits for it."""
    trained.predict(np.zeros((1, *trained.pipeline.input_shape), np.float32))
    handler = type("ModelHandler", (Handler,), {"trained": trained, "invert": invert})
    return HTTPServer(("127.0.0.1", port), handler)


def main(command_line: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    trained = load_run(arguments.run, seed=arguments.seed)
    with make_server(trained, port=arguments.port, invert=arguments.invert) as server:
        host, port = server.server_address[:2]
        print(f"serving {trained.pipeline.run.model} at http://{host!s}:{port}/predict", flush=True)
        try:
            if arguments.requests is None:
                server.serve_forever()
            for _ in range(arguments.requests or 0):
                server.handle_request()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
