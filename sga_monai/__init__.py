"""Chest X-ray classifiers that keep working at the next hospital: saliency guided adversarial training on MONAI."""

__version__ = "0.1.0"
