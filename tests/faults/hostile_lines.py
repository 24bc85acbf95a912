"""Lines that were once misread, ended in a traceback, took all memory or had no end: what each of them comes to now."""

from tests.faults.hostile import NET, SMALL

TINY = ("dataset=digits", *NET, *SMALL)
HUGE = 10**9
RUNS = ""
"""In the place of a message: the line is in order. In a message … is any text."""

MISREAD = [
    ("epochs=2.7", "epochs: '2.7' is not a whole number"),
    ("epochs=1e1", "epochs: '10.0' is not a whole number"),
    ("seed=true", "seed: 'True' is not a whole number"),
    ("grad_clip=true", "grad_clip: 'True' is not a number"),
    ("model.code=[8]", "model.code=[8]: it must be a whole number"),
    ("model.code=8.0", "model.code=8.0: it must be a whole number"),
    ("optimizer.lr='0.5'", "optimizer.lr='0.5': it must be a number"),
    ("optimizer.lr=[0.1]", "optimizer.lr=[0.1]: it must be a number"),
    ("optimizer.lr=-1", "optimizer.lr must be at least 0, not -1"),
    ("dataset.valid='5'", "dataset.valid='5': it must be a number"),
    ("model.encoder=null", "model.encoder=None: it must be something to build"),
    ("+noise.std=3", "noise.std: noise has no _target_"),
    ("trust=3", "trust must be a module's name, a path, or a list of them, not 3"),
    ("epochs=${oc.env:AECTL_NOT_SET}", "epochs: KeyError raised while resolving interpolation"),
    ("epochs=${nope:1}", "epochs: Unsupported interpolation type nope"),
    ("epochs=${nope}", "epochs: Interpolation key 'nope' not found"),
    ("epochs=${epochs}", "epochs: Recursive interpolation detected"),
]
TOO_LARGE = [
    (f"model.code={HUGE}", "model: at least … numbers need … GB, this machine has"),
    (f"model.code={2**62}", "model: at least … numbers need … EB, this machine has"),
    (f"model.code={2**63}", "model.code must be less than 2**63, not 9223372036854775808"),
    (f"epochs={10**30}", "epochs must be less than 2**63"),
    (f"batch_size={HUGE}", "batch_size must be at most the … training images"),
    (f"device.threads={HUGE}", "device: threads must be at most 1,024, not 1,000,000,000"),
    (f"device.count={10**6} batch_size={10**7}", r"device.count: 1,000,000 processes need 250 TB, this machine has"),
    (f"device.count={10**6}", "device.count: 1,000,000 processes cannot share a batch of 50 images"),
    (f"epochs={10**18} max_time=0.1", RUNS),
    (f"patience={10**18}", RUNS),
    (f"max_time={10**30}d", RUNS),
]
OTHERS = [
    (f"dataset=toy dataset.points={10**12}", "dataset: at least 1,000,000,000,000 numbers need 4 TB, this machine has"),
    (f"dataset=patches dataset.per_image={HUGE}", "dataset: at least … need … TB"),
    (f"dataset=digits model=made model.masks={HUGE}", "model: at least … need … GB"),
    (f"dataset=digits model=made model.masks={HUGE} model.orderings=several", "model: at least … need … GB"),
    (f"dataset=digits model=rbm model.persistent={HUGE}", "model: at least … need … GB"),
    (f"dataset=digits model=rbm model.temperatures={HUGE}", "model: temperatures must be at most 1,000,000"),
    (f"dataset=digits model=gan model.discriminator_steps={HUGE}", "model: discriminator_steps must be at most"),
    (f"dataset=digits model=ebm model.noise_ratio={HUGE}", "model: noise_ratio must be at most 1,000,000"),
    (f"dataset=digits model=iwae batch_size=128 model.samples={10**6}", "a step: at least … numbers need … GB"),
    (
        "dataset=digits model=conv model.code=2 model.encoder.channels=[100000] batch_size=1000",
        "a step: at least … numbers need … GB",
    ),
    (f"dataset=digits model=dae noise=jitter noise.shift={HUGE}", "noise: shift must be at most 1,000"),
]
UNREADABLE = [
    ("model=-1", "no model called '-1'\n  there are: boltzmann, "),
    ("model=[{}]", "no model called '[{}]'\n  there are: boltzmann, "),
    ("~model", "no key 'model.code': another override has removed it"),
    ("seed=[1", "cannot read seed=[1: no viable alternative"),
    ("--cfg=nonsense", "--cfg shows job, hydra, all, not 'nonsense'"),
    ("--config-dir", "--config-dir needs a value after it"),
    ("epochs=${batch_size} batch_size=${epochs}", "epochs: Recursive interpolation detected"),
]
OF_A_RUN = [
    ("sample", f"n={HUGE}", "n: 1,000,000,000 images of 64 pixels need 1.02 TB, this machine has"),
    ("sample", f"steps={HUGE}", "steps must be at most 1,000,000, not 1,000,000,000"),
    ("sample", f"components={HUGE}", "components must be at most 10,000, not 1,000,000,000"),
    ("sample", "kind=density components=10000", "kind=density: components=10,000 needs at least 10,000"),
    ("sample", "trust=0.5", "trust must be a module's name, a path, or a list of them, not 0.5"),
    ("eval", f"nll_samples={HUGE}", "nll_samples must be at most 1,000,000, not 1,000,000,000"),
    ("eval", "figures=7", "figures: '7' is not true or false"),
    ("eval", "only=3", "only must be a table's name or a list of them, not 3"),
    ("eval", "device.count=2", "device.count=2 is for aectl train"),
]
WHOLE = [
    (("eval", "run=a\x1b[31mb"), r"'a\x1b[31mb' names no run: it does not exist"),
    (("eval", "run=a\nb"), r"'a\nb' names no run: it does not exist"),
    (("train", *TINY, "model.encoder._target_='a\nb'"), r"model.encoder: cannot find 'a\nb'"),
    (("train", *TINY, "dataset._target_=${model}"), "dataset: cannot find '{'_target_': 'aectl.models."),
]


def lines():
    """Return every line with the message that it comes to."""
    for told, message in (*MISREAD, *TOO_LARGE, *UNREADABLE):
        yield ("train", *TINY, *told.split()), message
    for told, message in OTHERS:
        yield ("train", *told.split(), "epochs=1", "device.threads=1"), message
    yield from WHOLE
