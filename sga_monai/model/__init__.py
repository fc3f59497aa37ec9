"""The network, its weights, its features and its score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.model.architectures import NETWORKS
    from sga_monai.model.features import FeatureRecorder, forward_with_features
    from sga_monai.model.modes import frozen_statistics, recalibrate, to_device, untracked_statistics
    from sga_monai.model.network import CXRResNet18
    from sga_monai.model.networks import build_network
    from sga_monai.model.preparation import Preparation, trained_preparation
    from sga_monai.model.scores import MeanScore, logit_difference, score_and_label
    from sga_monai.model.weights import load_best_model, load_trained_models

__all__ = [
    "NETWORKS",
    "CXRResNet18",
    "FeatureRecorder",
    "MeanScore",
    "Preparation",
    "build_network",
    "forward_with_features",
    "frozen_statistics",
    "load_best_model",
    "load_trained_models",
    "logit_difference",
    "recalibrate",
    "score_and_label",
    "to_device",
    "trained_preparation",
    "untracked_statistics",
]
_MODULES = {
    "CXRResNet18": "network",
    "FeatureRecorder": "features",
    "MeanScore": "scores",
    "NETWORKS": "architectures",
    "Preparation": "preparation",
    "build_network": "networks",
    "forward_with_features": "features",
    "frozen_statistics": "modes",
    "load_best_model": "weights",
    "load_trained_models": "weights",
    "logit_difference": "scores",
    "recalibrate": "modes",
    "score_and_label": "scores",
    "to_device": "modes",
    "trained_preparation": "preparation",
    "untracked_statistics": "modes",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
