"""The tasks that come with the package: one file a subcommand. Here is what several of them share."""

from typing import Annotated, Literal

import typer

LossOption = Annotated[
    Literal["l2", "l1", "huber", "poisson"],
    typer.Option(
        "--loss",
        help="What counts as near to the input: l2 for Gaussian noise, l1 for impulse noise, huber for some of both "
        "(its bend goes by --sigma, "
        "which only dip denoise estimates: elsewhere auto is a tenth of the range), poisson for counted light.",
    ),
]
