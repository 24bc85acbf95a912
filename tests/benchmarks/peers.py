"""One peer trains one network on MNIST's training images, in an environment that need not know aectl.

    python peers.py PEER NETWORK FOLDER EPOCHS SEED

FOLDER holds MNIST as torchvision reads it. Prints a line of JSON: seconds of each epoch, the mean loss of the last one
in nats or squared error per image, seconds from the process's start to the first step, and peak memory in MiB.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

SHIM = Path(__file__).parents[2] / "aectl" / "data" / "torchvision_shim.py"
"""A file that stands alone: by it torchvision is imported also where its wheel and torch's do not match."""
BATCH, RATE = 128, 1e-3
Terms = Callable[[Tensor], Tensor]


class Vae(nn.Module):
    """784-400-20-400-784, as in PyTorch's own example: cross-entropy of grey pixels and KL divergence, in nats."""

    def __init__(self, width: int = 400) -> None:
        super().__init__()
        self.up, self.parameters_of_z = nn.Linear(784, width), nn.Linear(width, 40)
        self.down, self.pixels = nn.Linear(20, width), nn.Linear(width, 784)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean over images."""
        x = x.flatten(1)
        mu, logvar = self.parameters_of_z(F.relu(self.up(x))).chunk(2, 1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        seen = torch.sigmoid(self.pixels(F.relu(self.down(z))))
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return (F.binary_cross_entropy(seen, x, reduction="sum") + kl) / len(x)


class Reconstruction(nn.Module):
    """An autoencoder of some layers; its loss is the squared error, summed over pixels."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean over images."""
        seen = self.layers(x)
        return F.mse_loss(seen, x.view_as(seen), reduction="sum") / len(x)


def dense() -> nn.Module:
    """Return 784-1000-500-250-30 and back."""
    widths = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (before, after) in enumerate(pairwise(widths), 1):
        activation = nn.Sigmoid() if number == len(widths) - 1 else nn.Identity() if after == 30 else nn.ReLU()
        layers += [nn.Linear(before, after), activation]
    return Reconstruction(nn.Sequential(*layers))


def conv() -> nn.Module:
    """Return aectl's `model=conv`: 16 and 32 channels, pooling, a code of 16, transposed convolutions."""
    up = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    up += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 16)]
    down = [nn.Linear(16, 1568), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)), nn.ConvTranspose2d(32, 16, 4, 2, 1)]
    down += [nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid()]
    return Reconstruction(nn.Sequential(*up, *down))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"vae": Vae, "dense": dense, "conv": conv}


class Stopwatch:
    """Seconds of each epoch, and from the start of the process to the first step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.startup = 0.0

    def begin(self) -> None:
        """An epoch begins."""
        now = time.time()
        self.startup = self.startup or now - started()
        self.began = time.perf_counter()

    def end(self) -> None:
        """The epoch ends."""
        self.seconds.append(time.perf_counter() - self.began)


def started() -> float:
    """Return when this process began, in seconds since 1970."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return float(boot.split()[1]) + ticks / 100


def images(folder: str) -> Dataset:
    """Return MNIST as tutorials do: decoded, and turned into a tensor, image by image."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    return MNIST(folder, train=True, transform=transforms.ToTensor())


def tutorial(network: str, folder: str, epochs: int) -> Iterator[float]:
    """Train by the loop that tutorials have, on the device that the environment names."""
    device = torch.device(os.environ.get("DEVICE", "cpu"))
    model = NETWORKS[network]().to(device)
    loader = DataLoader(images(folder), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(epochs):
        watch.begin()
        total = 0.0
        for x, _ in loader:
            optimizer.zero_grad()
            loss = model.loss(x.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        watch.end()
        yield total / 60_000


def lightning(network: str, folder: str, epochs: int) -> Iterator[float]:
    """Train by a Lightning Trainer without logger, checkpoints and bar."""
    import lightning as L

    losses: list[float] = []

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = NETWORKS[network]()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            loss = self.model.loss(batch[0])
            self.total += loss.detach() * len(batch[0])
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=RATE)

        def on_train_epoch_start(self) -> None:
            self.total = torch.zeros(())
            watch.begin()

        def on_train_epoch_end(self) -> None:
            watch.end()
            losses.append(float(self.total) / 60_000)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(Module(), DataLoader(images(folder), batch_size=BATCH, shuffle=True))
    yield from losses


def pythae(network: str, folder: str, epochs: int) -> Iterator[float]:
    """Train pythae's VAE by its BaseTrainer; it has the VAE alone of these networks."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    losses: list[float] = []
    net = Vae()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = net.up, net.parameters_of_z

        def forward(self, x: Tensor) -> ModelOutput:
            mu, logvar = self.head(F.relu(self.up(x.flatten(1)))).chunk(2, 1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.pixels = net.down, net.pixels

        def forward(self, z: Tensor) -> ModelOutput:
            seen = torch.sigmoid(self.pixels(F.relu(self.down(z))))
            return ModelOutput(reconstruction=seen.view(-1, 1, 28, 28))

    class Watch(TrainingCallback):
        def on_epoch_begin(self, training_config: object, **kwargs: object) -> None:
            watch.begin()

        def on_log(self, training_config: object, logs: dict, **kwargs: object) -> None:
            losses.append(float(logs["train_epoch_loss"]))

        def on_epoch_end(self, training_config: object, **kwargs: object) -> None:
            watch.end()

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    data = images(folder).data[:, None].float() / 255
    training = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        optimizer_cls="Adam",
        no_cuda=True,
    )
    from pythae.data.datasets import BaseDataset

    BaseTrainer(model, BaseDataset(data, torch.zeros(len(data))), training_config=training, callbacks=[Watch()]).train()
    yield from losses


PEERS = {"tutorial": tutorial, "lightning": lightning, "pythae": pythae}
watch = Stopwatch()


def main(peer: str, network: str, folder: str, epochs: str, seed: str) -> None:
    """Train, and print what came of it."""
    # Before the peers, which import torchvision too.
    runpy.run_path(str(SHIM))["torchvision"]()
    torch.manual_seed(int(seed))
    *_, loss = PEERS[peer](network, folder, int(epochs))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": watch.seconds, "loss": loss, "startup": watch.startup, "memory": memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])
