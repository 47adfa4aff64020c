"""The content of TensorBoard event files, as TensorBoard shows it after restarts."""

import io
import struct

import numpy as np
from PIL import Image
from tensorboardX.proto import event_pb2


def events(folder):
    """Yields the events of all files in a folder, in the order of their names."""
    for file in sorted(folder.glob('events*')):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack('<Q', content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def shown(folder):
    """Returns (step, name) -> value; a start hides the events from its step on."""
    values = {}
    for event in events(folder):
        if event.HasField('session_log'):
            values = {key: value for key, value in values.items() if key[0] < event.step}
        for value in event.summary.value:
            values[event.step, value.tag] = value
    return values


def image(value):
    """Returns the image (H, W, C) uint8 of a value."""
    return np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
