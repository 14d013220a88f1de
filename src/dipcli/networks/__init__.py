"""The prior: network architectures, their layers and CPU kernels."""

from dipcli.networks.build import architecture, build, sides
from dipcli.networks.prior import Prior

__all__ = ["Prior", "architecture", "build", "sides"]
