"""The tasks that come with the package: one module per subcommand; here, an option that several of them share."""

from typing import Annotated, Literal

import typer

LossOption = Annotated[
    Literal["l2", "l1", "huber", "poisson"],
    typer.Option(
        "--loss",
        help="Data term: l2 (Gaussian noise), l1 (impulse noise), huber (both; bends at --sigma) or poisson (photon "
        "counts).",
        rich_help_panel="The optimiser",
    ),
]
