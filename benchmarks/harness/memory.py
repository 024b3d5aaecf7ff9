"""Peak memory of a call, with its arguments and results.

* JAX: XLA's plan, ``compiled.memory_analysis()``: arguments, outputs and temporaries, less outputs
  that reuse the memory of arguments.
* PyTorch on the CPU: the peak of the running sum over all allocations and releases that its
  profiler lists, also inside operators, plus the arguments.
* PyTorch on CUDA: the rise of ``torch.cuda.max_memory_allocated`` after a reset of its peak, plus
  the arguments.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def of_jax(compiled: jax.stages.Compiled) -> int | None:
    """Peak memory of a compiled function by XLA's plan, in bytes; ``None`` if XLA has none."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def of_torch(run: Callable[[], Any], arguments: list[Any]) -> int:
    """PyTorch's peak memory in a call, in bytes; the call must have run before."""
    import torch

    held_before = sum(argument.untyped_storage().nbytes() for argument in arguments)
    if arguments[0].is_cuda:
        # Other contenders have arguments on the device, too.
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before + held_before)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak + held_before
