"""Suggest names for unknown keys and options, by synonyms in other programs and by spelling."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MEANINGS: dict[str, str] = {
    # The size of a code.
    "latent latents latent_dim latent_size latent_dims z z_dim z_size zdim nz code_dim code_size bottleneck "
    "bottleneck_dim bottleneck_size embedding embedding_dim embed_dim n_components n_latent "
    "code": "model.code model.codes",
    # Layers.
    "hidden hidden_dim hidden_size hidden_dims hidden_sizes hidden_units hidden_layers layers layer_sizes units width "
    "widths n_hidden h_dim mlp": "model.encoder.widths model.hidden model.widths model.generator.widths "
    "model.network.widths model.encoder.channels model.generator.channels",
    "filters n_filters feature_maps conv_channels channels ngf ndf": "model.encoder.channels model.generator.channels "
    "dataset.channels",
    "activation act activation_fn nonlinearity nonlin": "model.encoder.activation model.activation "
    "model.generator.activation",
    "out_activation output_activation final_activation": "model.output",
    "batch_norm batchnorm bn normalization norm_layer": "model.encoder.norm model.generator.norm",
    "tie tie_weights tied_weights weight_tying share_weights": "model.tied model.layer.tied",
    "dropout dropout_rate dropout_p dropout_prob drop drop_rate p_dropout keep_prob": "model.code_dropout",
    "topk top_k n_active sparsity_k": "model.encoder.code_activation.k",
    # Losses and penalties.
    "loss loss_fn loss_function criterion loss_type recon_loss reconstruction_loss gan_loss": "model.loss "
    "model.likelihood",
    "beta kl_weight kld_weight kl_coeff kl_coef kl_beta beta_kl kl kld": "model.beta",
    "kl_anneal kl_annealing kl_warmup beta_anneal": "model.warm_up",
    "lambda lam lmbda lambd sparsity sparsity_weight l1 l1_weight l1_lambda reg reg_weight regularization "
    "regularizer_weight penalty_weight": "penalty.weight model.weight",
    "rho sparsity_target target_sparsity": "penalty.rho",
    "gp lambda_gp gp_weight gp_lambda": "model.gradient_penalty",
    "n_critic critic_iters critic_steps d_steps disc_steps": "model.discriminator_steps",
    "ema ema_decay ema_rate": "model.averaging",
    "cd_k k_gibbs gibbs_steps n_gibbs cd_steps": "model.steps",
    "iwae_samples importance_samples n_importance k": "model.samples",
    # Noise.
    "sigma noise_level noise_std noise_factor noise_scale noise_sigma noise_amount noise_strength stddev "
    "std": "noise.std noise.p",
    "mask_ratio masking_ratio mask_prob corruption corruption_level corruption_rate noise_p noise_prob "
    "p": "noise.p noise.std",
    # Optimisation.
    "lr learning_rate learningrate eta alpha step_size init_lr initial_lr base_lr max_lr": "optimizer.lr",
    "weight_decay wd l2 l2_weight decay": "optimizer.weight_decay model.weight_decay",
    "mom": "optimizer.momentum",
    "warmup_steps warmup_epochs warmup_ratio": "schedule.warmup",
    "optim opt optimiser solver": "optimizer",
    "scheduler lr_scheduler lr_schedule lr_decay": "schedule",
    "batch bs batchsize mini_batch minibatch minibatch_size train_batch_size": "batch_size",
    "epoch epochs num_epochs n_epochs nb_epochs max_epochs train_epochs nepoch passes": "epochs",
    "steps max_steps n_steps total_steps iterations iters n_iter max_iter num_iterations n_iters": "steps epochs",
    "clip clip_grad clip_norm gradient_clip gradient_clip_val gradient_clipping max_grad_norm max_norm": "grad_clip",
    "early_stop early_stopping early_stopping_patience es_patience": "patience",
    "monitor metric metrics target": "objective only",
    "time timeout time_limit max_seconds walltime max_minutes": "max_time",
    "random_seed random_state manual_seed rng rng_seed": "seed",
    # Data.
    "data ds data_set dataset_name data_name": "dataset",
    "data_dir data_path datadir data_root data_folder dataset_path dataset_dir root path": "dataset.root dataset.path",
    "val val_split validation_split val_size val_fraction validation valid_size valid_split": "dataset.valid",
    "test_split test_size test_fraction": "dataset.test",
    "n_labels num_labels labeled labelled n_labelled n_labeled": "dataset.labels",
    "image_size img_size resolution": "dataset.size",
    "in_channels n_channels": "dataset.channels",
    "n_points": "dataset.points",
    # Runs and machines.
    "net network arch architecture model_name model_type": "model run",
    "ckpt ckpt_path resume_from restore load load_from continue": "resume checkpoint run",
    "pretrained pretrain weights init_weights finetune from": "init_from run",
    "run_name exp_name experiment_name run_id output_dir out_dir save_dir log_dir logdir out output": "name",
    "gpu gpus cuda use_cuda use_gpu accelerator": "device=cuda",
    "cpu use_cpu": "device=cpu",
    "bf16 fp16 amp half mixed_precision use_amp dtype": "device.precision=bf16",
    "n_threads num_threads cores n_cores": "device.threads",
    "workers n_workers num_workers n_jobs parallel": "jobs device.threads",
    "n_trials num_trials max_trials": "trials",
    # aectl eval and aectl sample.
    "model run_dir run_path run_folder dir folder": "run",
    "tables table": "only",
    "set subset": "split dataset",
    "which weights_from": "checkpoint",
    "importance_draws nll_draws": "nll_samples",
    "classifier judge_run feature_extractor inception": "judge",
    "ood outlier anomalies anomaly": "outliers",
    "format onnx": "export",
    "force overwrite redo recompute": "again",
    "plots plot draw": "figures",
    "num n_samples num_samples samples count size how_many": "n model.samples nll_samples",
    "temp tau": "temperature",
    "class classes y digit target_class": "label",
    "type mode what": "kind",
    "n_gaussians mixture_components": "components",
    "gmm gaussian_mixture mog": "mixture",
    "burnin": "burn_in",
    "thin": "thinning",
    # Options of groups, and other names.
    "autoencoder ae vanilla basic deep mlp_ae dense_ae": "undercomplete",
    "denoising denoising_autoencoder denoiser denoising_ae": "dae",
    "variational variational_autoencoder beta_vae betavae bvae": "vae",
    "convolutional conv_ae cnn convnet cae conv_autoencoder": "conv",
    "pca linear_ae": "linear",
    "sparse_ae sparse_autoencoder sae": "sparse",
    "dcgan convgan": "gan_conv",
    "wgan wgangp lsgan": "gan",
    "cgan": "gan",
    "hvae ladder": "vae2",
    "restricted_boltzmann": "rbm",
    "fashion fmnist fashionmnist": "fashion_mnist",
    "image_folder imagefolder images files photos": "folder",
    "numpy npy npz array": "arrays",
    "mixed_national digits_mnist": "mnist",
    "normal awgn": "gaussian",
    "mask zeros blankout": "masking",
    "impulse pepper": "salt_and_pepper",
    "augment augmentation shift": "jitter",
    "lasso": "l1",
    "kullback kl_divergence": "kl",
    "cosine_annealing annealing": "cosine",
    "step multistep": "steps",
    "metal apple": "mps",
    "bayesian tpe": "optuna",
    "fit learn run_training": "train",
    "evaluate test validate score report list ls show": "eval",
    "generate draw_samples synthesize": "sample",
    "recon reconstructions": "reconstruction",
    "interpolate": "interpolation",
    "fid frechet": "distances",
    "linear_probe knn": "probes",
    "nll elbo log_likelihood": "likelihood",
    "auroc roc": "anomalies",
    "accuracy": "classification",
    "kmeans": "clusters",
    "cross_entropy binary_cross_entropy crossentropy": "bce bernoulli",
    "l2_loss squared_error": "mse gaussian",
}
"""Names used by other programs, with the keys and options of aectl that mean the same, most likely first."""

COUNTS = re.compile(r"^(n|num|nb|number_of|max|total)_")


def normalise_name(name: str) -> str:
    """Return a name in lower case without underscores and hyphens."""
    return re.sub(r"[\W_]", "", name).lower()


SYNONYMS: dict[str, list[str]] = {}
for words, ours in MEANINGS.items():
    for word in words.split():
        SYNONYMS.setdefault(normalise_name(word), []).extend(ours.split())


def find_synonyms(name: str) -> list[str]:
    """Return the keys, options and names of aectl that mean the same as `name`."""
    short = COUNTS.sub("", name.lower())
    for word in (name, short, name.removesuffix("s"), short.removesuffix("s")):
        if found := SYNONYMS.get(normalise_name(word)):
            return found
    return []


def find_nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most one known name: equal but for case and signs, else a synonym, else similar spelling."""
    known = list(known)
    same = [one for one in known if normalise_name(one) == normalise_name(name)]
    # The synonym `device=cuda` stands for the option cuda, `model.code` for the key code.
    meant = [leaf for leaf in (re.split("[.=]", one)[-1] for one in find_synonyms(name)) if leaf in known]
    return (same or meant or difflib.get_close_matches(name, known, 1) or find_near_synonyms(name, known))[:1]


def find_near_synonyms(name: str, known: Sequence[str]) -> list[str]:
    """Return the known names that are synonyms of a name spelt like `name`."""
    words = difflib.get_close_matches(normalise_name(name), SYNONYMS, n=1, cutoff=0.85)
    return [one for word in words for one in SYNONYMS[word] if one in known]


def suggest_nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return `; did you mean 'X'?` with the nearest of the known names, or `; otherwise` if none is near."""
    return did_you_mean([f"'{near}'" for near in find_nearest(name, known)], otherwise)


def did_you_mean(suggestions: Sequence[str], otherwise: str = "") -> str:
    """Return `; did you mean A or B?` with the first two suggestions, or `; otherwise` if there are none."""
    if suggestions:
        return f"; did you mean {' or '.join(suggestions[:2])}?"
    return otherwise and f"; {otherwise}"


def find_same_keys(key: str, config: Mapping[str, Any]) -> list[str]:
    """Return the keys of a config with the same last part as `key`, else at most one synonym."""
    known = dict(iterate_keys(config))
    parent, _, leaf = key.rpartition(".")
    if same := [one for one in known if one.rpartition(".")[2] == leaf and one != key]:
        # A recipe repeats the keys that are null in the config.
        return [one for one in same if not one.startswith("recipe.")] or same
    meant = [one for one in find_synonyms(leaf) if one.partition("=")[0] in known]
    # First in the same part: model.decoder.hidden means model.decoder.widths.
    siblings = [f"{parent}.{one.rpartition('.')[2]}" for one in find_synonyms(leaf)] if parent else []
    return [*[one for one in siblings if one in known], *meant][:1]


def find_similar_keys(key: str, config: Mapping[str, Any]) -> list[str]:
    """Return at most one key of a config spelt like `key`, preferably in the same part."""
    known = dict(iterate_keys(config))
    siblings = [one for one in known if one.rpartition(".")[0] == key.rpartition(".")[0]]
    near = find_nearest(key, siblings) or find_nearest(key, known)
    return [one for one in near if not key.startswith(f"{one}.")]


def format_override(key: str, value: str, config: Mapping[str, Any], options: Mapping[str, Sequence[str]]) -> str:
    """Return `key=value` quoted for a shell; list values get brackets, group values become an option."""
    if "=" in key:
        return key
    if value and key in options and value not in options[key]:
        value = (find_nearest(value, options[key]) or [""])[0]
    elif value and isinstance(dict(iterate_keys(config)).get(key), (list, tuple)) and value[0] not in "[$":
        value = f"[{value}]"
    return shlex.quote(f"{key}={value}") if value else f"{key}=…"


def iterate_keys(config: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the dotted keys of a plain config with their values, without Hydra's own such as `_target_`."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if not str(key).startswith("_"):
                full = f"{path}.{key}" if path else str(key)
                yield full, value
                yield from iterate_keys(value, full)
