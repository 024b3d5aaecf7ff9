"""The served model: its answers are those of the model, and bad requests are told so."""

import http.client
import io
import json
import re
import subprocess
import sys
import threading
import urllib.request

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import ROOT

from examples import serve_model
from experiments import pretrained


@pytest.fixture(scope="module")
def trained():
    return pretrained.load()


@pytest.fixture(scope="module")
def port(trained):
    """A server in a thread."""
    with serve_model.make_server(trained, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def digit(trained):
    """The bytes of a PNG of a turned test digit."""
    images, _ = trained.pipeline.test_images([5])
    pixels = np.round(255 * np.asarray(images[0, ..., 0])).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def ask(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_answers_are_those_of_the_model(port, trained, digit):
    status, answer = ask(port, "POST", "/predict", digit)
    assert status == 200
    image = trained.pipeline.from_picture(Image.open(io.BytesIO(digit)))
    logits, theta = trained.model.forward(jnp.asarray(image[None]))
    assert answer["label"] == int(np.argmax(logits))
    np.testing.assert_allclose(np.log(answer["probabilities"]).argmax(), np.argmax(logits))
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(answer["theta"], theta[0], atol=1e-5)


def test_tells_of_the_model(port):
    assert ask(port, "GET", "/") == (
        200,
        {"model": "st-cnn", "classes": 10, "input_shape": [28, 28, 1]},
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "error"),
    [
        ("POST", "/predict", b"no image", {}, 400, "the body: expected a readable image"),
        ("POST", "/predict", b"", {}, 411, "must be an image of 1 to 10,000,000 bytes"),
        ("POST", "/predict", b"", {"Content-Length": "99999999"}, 413, "got '99999999'"),
        ("POST", "/predict", b"", {"Content-Length": "-1"}, 411, "got '-1'"),
        ("POST", "/train", b"x", {}, 404, "there is no /train; post an image to /predict"),
        ("GET", "/predict", None, {}, 404, "there is no /predict"),
    ],
)
def test_bad_requests_are_told_so(method, path, body, headers, status, error, port):
    found, answer = ask(port, method, path, body, headers)
    assert found == status
    assert error in answer["error"]


@pytest.mark.slow
def test_command_serves_in_a_process_of_its_own(digit):
    command = [sys.executable, "-m", "examples.serve_model", "--port", "0", "--requests", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        address = re.search(r"serving st-cnn at (\S+)", process.stdout.readline())[1]
        request = urllib.request.Request(address, data=digit)
        with urllib.request.urlopen(request, timeout=60) as response:
            assert len(json.load(response)["probabilities"]) == 10
        assert process.wait(timeout=60) == 0
