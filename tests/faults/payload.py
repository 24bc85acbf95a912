"""What a stranger would have unpickled."""

import os


class Payload:
    """Pickled, it is a command."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)
