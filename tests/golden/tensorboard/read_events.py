"""Reads an event file as TensorBoard does and writes what it found: {tag: [[step, value], ...]}.

python read_events.py events.out.tfevents.golden > read.json      # pip install tensorboard
"""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={"tensors": 0, "scalars": 0})
accumulator.Reload()
found = {tag: [[e.step, e.value] for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
print(json.dumps(found, indent=1, sort_keys=True))
