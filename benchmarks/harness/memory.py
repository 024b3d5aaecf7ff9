"""How much memory a call takes at its peak, arguments and results included.

* JAX: what XLA planned, ``compiled.memory_analysis()``: arguments, outputs and temporaries, less
  what of the outputs lies in arguments.
* PyTorch on the CPU: its profiler lists every allocation and release of the CPU allocator, those
  inside operators too; the peak of their running sum, plus the arguments.
* PyTorch on CUDA: ``torch.cuda.max_memory_allocated`` after its peak was reset, less what lay
  there before, plus the arguments.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def of_jax(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a compiled function is planned to hold; ``None`` where XLA does not say."""
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
    """Bytes that PyTorch holds at the peak of a call that has run before."""
    import torch

    held_before = sum(argument.untyped_storage().nbytes() for argument in arguments)
    if arguments[0].is_cuda:
        # Others have arguments there, too.
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
