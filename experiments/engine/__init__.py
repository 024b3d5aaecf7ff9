"""The training that all experiments share: steps, devices, checkpoints, folders, command line.

Nothing here knows an experiment, a data set or a model.
"""

from experiments.engine.command_line import run_command
from experiments.engine.devices import Devices, all_devices
from experiments.engine.evaluate import in_batches
from experiments.engine.files import write_json
from experiments.engine.fit import Fitted, fit
from experiments.engine.optimizers import adam_cosine
from experiments.engine.options import Launch, OutputFolder, Resume, TrainingOptions, as_json
from experiments.engine.problem import Problem, Schedule, State
from experiments.engine.run_folder import prepare_folder, prepare_folders
from experiments.engine.session import open_session
from experiments.engine.settings import command_of
from experiments.engine.signals import Interrupted
from experiments.engine.snapshots import Snapshots
from experiments.engine.step import Program, initial_states, make_program

__all__ = [
    "Devices",
    "Fitted",
    "Interrupted",
    "Launch",
    "OutputFolder",
    "Problem",
    "Program",
    "Resume",
    "Schedule",
    "Snapshots",
    "State",
    "TrainingOptions",
    "adam_cosine",
    "all_devices",
    "as_json",
    "command_of",
    "fit",
    "in_batches",
    "initial_states",
    "make_program",
    "open_session",
    "prepare_folder",
    "prepare_folders",
    "run_command",
    "write_json",
]
