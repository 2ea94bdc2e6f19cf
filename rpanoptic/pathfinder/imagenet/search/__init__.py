"""The search for ConvRNN architectures: what is varied, the study of all trials, what it found.

A trial is one network: values of the parameters of a :class:`~.space.Space`, which change keys of a
base config. How a trial is trained is no matter of this package, see
:mod:`rpanoptic.engine.search_trial`. All but the spaces needs Optuna.
"""

from __future__ import annotations

from rpanoptic.errors import LaunchError


def check_optuna() -> None:
    """Check that Optuna is there, which is installed on its own.

    Raises:
        LaunchError: it is not, or is too old; the message says how to install it.
    """
    try:
        # Since 5.0: a trial's constraints by name, importance of parameters that not all have.
        from optuna.trial import Trial

        assert hasattr(Trial, "set_constraint")
    except (ImportError, AssertionError) as error:
        raise LaunchError(
            "the architecture search needs Optuna, from version 5 on: pip install "
            '"rpanoptic[search]", or in a checkout pip install -e ".[search]".'
        ) from error
