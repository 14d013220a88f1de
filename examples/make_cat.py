"""Make the example images from the cat that scikit-image ships."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from skimage import data

HERE = Path(__file__).parent
SIGMA = 25  # grey levels of 255

clean = data.chelsea()[20:276, 60:316]
noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
iio.imwrite(HERE / "cat_clean.png", clean)
iio.imwrite(HERE / "cat_noisy.png", np.clip(clean + noise, 0, 255).round().astype(np.uint8))
