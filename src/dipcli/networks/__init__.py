"""The prior: network architectures, their layers and CPU kernels."""

from dipcli.networks.build import architecture, build, padded_size
from dipcli.networks.prior import Prior

__all__ = ["Prior", "architecture", "build", "padded_size"]
