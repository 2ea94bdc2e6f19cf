"""One parameter of a search space, as data: a range or a list, and when it is asked for at all."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # The spaces can be read without Optuna.
    from optuna.trial import Trial

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter(ABC):
    """What all parameters have.

    Args:
        name: of the parameter, as the study stores it.
        when: name and values of an earlier parameter: this one exists only where that one exists
            and has such a value. None: always.
    """

    name: str

    def exists(self, values: Values) -> bool:
        """Whether it is asked for, given the values of those before it."""
        when: tuple[str, tuple[Any, ...]] | None = self.when  # type: ignore[attr-defined]
        return when is None or (when[0] in values and values[when[0]] in when[1])

    @abstractmethod
    def suggest(self, trial: Trial) -> Any:
        """The value that the study's sampler proposes."""

    @abstractmethod
    def median(self, values: Sequence[Any]) -> Any:
        """The value that stands for several, the best trial's first."""


@dataclass(frozen=True)
class Float(Parameter):
    """A number between ``low`` and ``high``, both included, uniform or in the logarithm."""

    low: float
    high: float
    log: bool = False
    when: tuple[str, tuple[Any, ...]] | None = None

    def suggest(self, trial: Trial) -> float:
        """As :meth:`Parameter.suggest`."""
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def median(self, values: Sequence[float]) -> float:
        """Of an even number of values the mean of the middle two, geometric in the logarithm."""
        if self.log:
            return math.exp(statistics.median(math.log(value) for value in values))
        return statistics.median(values)


@dataclass(frozen=True)
class Integer(Parameter):
    """A whole number between ``low`` and ``high``, both included."""

    low: int
    high: int
    when: tuple[str, tuple[Any, ...]] | None = None

    def suggest(self, trial: Trial) -> int:
        """As :meth:`Parameter.suggest`."""
        return trial.suggest_int(self.name, self.low, self.high)

    def median(self, values: Sequence[int]) -> int:
        """Of an even number of values the lower of the middle two, which is one of them."""
        return statistics.median_low(values)


@dataclass(frozen=True)
class Choice(Parameter):
    """One of several values: truth values, numbers or texts."""

    values: tuple[Any, ...]
    when: tuple[str, tuple[Any, ...]] | None = None

    def suggest(self, trial: Trial) -> Any:
        """As :meth:`Parameter.suggest`."""
        return trial.suggest_categorical(self.name, self.values)

    def median(self, values: Sequence[Any]) -> Any:
        """The most frequent value; of several, the one that comes first."""
        return statistics.mode(values)


def flag(name: str, when: tuple[str, tuple[Any, ...]] | None = None) -> Choice:
    """A parameter that is on or off."""
    return Choice(name, (False, True), when=when)


def suggest_all(parameters: Sequence[Parameter], trial: Trial) -> dict[str, Any]:
    """The values of all parameters that exist, in their order."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.exists(values):
            values[parameter.name] = parameter.suggest(trial)
    return values


def median_of(parameters: Sequence[Parameter], trials: Sequence[Values]) -> dict[str, Any]:
    """The values that stand for several trials: medians of numbers, the most frequent of others.

    So was the network of the paper found that is called the median one. A parameter that exists
    only with some value of another is taken over the trials that have it.

    Args:
        parameters: of the space.
        trials: values by name, the best trial's first; at least one.
    """
    values: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.exists(values):
            found = [trial[parameter.name] for trial in trials if parameter.name in trial]
            values[parameter.name] = parameter.median(found)
    return values
