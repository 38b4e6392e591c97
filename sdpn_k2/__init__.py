"""Self-supervised speaker embeddings (SDPN) for Kaldi, lhotse and k2 users.

model = sdpn_k2.load("exp/demo")
embedding = model.embed("speech.wav")
"""

__version__ = "0.1.0"


def load(checkpoint, device="cpu", max_duration=60.0):
    """The encoder of a checkpoint (or of an experiment folder's final.pt), ready to embed audio.

    Args:
        checkpoint: file or folder.
        device: a torch device.
        max_duration: seconds; longer recordings are embedded in equal chunks, and the chunks averaged.

    Returns:
        :class:`sdpn_k2.inference.embedder.Embedder`.

    Raises:
        sdpn_k2.errors.InputError: not a readable checkpoint of ours, a device that torch cannot use, or a max_duration
            that is too short (below 0.1).
    """
    from sdpn_k2.inference.embedder import Embedder  # here, since torch takes seconds to import

    return Embedder.load(checkpoint, device, max_duration)
