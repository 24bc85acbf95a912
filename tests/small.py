"""Settings that keep training and evaluation quick in tests."""

QUICK = ("dataset=digits", "epochs=1", "device=cpu", "device.threads=1", "batch_size=256")
DENSE = ("model.encoder.widths=[32]", "model.decoder.widths=[32]")
SMALL = {
    **dict.fromkeys(("dae", "overcomplete", "shallow", "sparse", "ksparse"), ("model.code=70",)),
    **dict.fromkeys(("undercomplete", "vae", "iwae", "coupled"), DENSE),
    "vae2": ("model.widths=[[16]]", *DENSE),
    "dropout": ("model.code=70", *DENSE),
    "ebm": ("model.network.widths=[16]", "model.components=8", "model.sample_steps=20"),
    "gan": ("model.generator.widths=[32]", "model.discriminator.widths=[32]"),
    "made": ("model.hidden=[32]",),
    "nade": ("model.hidden=32",),
    "rbm": ("model.hidden=32", "model.temperatures=50", "model.sample_steps=20"),
    **dict.fromkeys(("conv", "vae_conv"), ("model.encoder.channels=[2,3]", "model.decoder.channels=[3,2]")),
    "gan_conv": ("model.generator.channels=[3,2]", "model.discriminator.channels=[2,3]"),
    "boltzmann": ("dataset=patches", "dataset.side=3", "dataset.per_image=1", "dataset.blank=true"),
    **dict.fromkeys(("dbn", "dbm"), ("model.widths=[16,12]", "model.temperatures=50", "model.sample_steps=20")),
    **dict.fromkeys(("stacked_ae", "stacked_dae", "stacked_rbm"), ("model.widths=[16,12]", "model.pretrain_epochs=1")),
}
"""By the model; data for what digits have too many pixels for. Codes wider than the 64 pixels of a digit stay so."""
SOME = ("only=[reconstruction]", "figures=false")
"""Of an evaluation, as much as shows that it goes through."""


def training_words(model, *words):
    """Return what trains a small net of a model for one epoch on digits; later words win over the usual ones."""
    typed = {word.partition("=")[0]: word for word in (*QUICK, *SMALL.get(model, ()), *words)}
    return (f"model={model}", *typed.values())
