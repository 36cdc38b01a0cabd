"""The Fellegi–Sunter model of a profile: trained without labels, then every candidate pair gets its odds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import splink.comparison_level_library as cll
from splink import Linker, SettingsCreator, block_on
from splink.comparison_library import CustomComparison
from splink.internals.blocking_rule_creator import BlockingRuleCreator

from services.identity.linkage.engines import Engine
from services.identity.linkage.keys import KEYS, ROW
from services.identity.linkage.profile import Comparison, Profile, Training

# It describes the model at every step; what it says of errors is raised as well.
logging.getLogger("splink").setLevel(logging.ERROR)


# Splink asks for a few hundred, better thousands; with fewer than this EM learns noise.
ENOUGH_PAIRS = 50


class TooLittleToLearn(ValueError):
    """Linkage learns from records that agree on something; there are too few of them."""


@dataclass(frozen=True)
class Pairs:
    """Compared pairs by position of their records. `weight` is log2 of the odds of a match; `evidence` what each comparison
    added to it, `level` which answer it gave (0 different, -1 missing, above: more alike)."""

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    evidence: Mapping[str, npt.NDArray[np.float32]]
    level: Mapping[str, npt.NDArray[np.int8]]

    def probability(self) -> npt.NDArray[np.float64]:
        """Of a match, by the model."""
        return 1 / (1 + np.exp2(-self.weight))


def _comparison(comparison: Comparison) -> CustomComparison:
    steps: list[Any] = [cll.CustomLevel(comparison.missing, "missing", "duckdb").configure(is_null_level=True)]
    for level in comparison.levels:
        step = cll.CustomLevel(level.sql, level.label, "duckdb")
        steps.append(step.configure(tf_adjustment_column=level.frequency_of) if level.frequency_of else step)
    return CustomComparison(output_column_name=comparison.name, comparison_levels=[*steps, cll.ElseLevel()])


def _settings(profile: Profile) -> SettingsCreator:
    return SettingsCreator(
        link_type="link_only" if profile.two_files else "dedupe_only",
        unique_id_column_name=ROW,
        blocking_rules_to_generate_predictions=[block_on(KEYS, arrays_to_explode=[KEYS])],
        comparisons=[_comparison(comparison) for comparison in profile.comparisons],
        # Splink gives levels only together with the values; `score` fetches the levels and leaves the values where they are.
        retain_matching_columns=True,
        retain_intermediate_calculation_columns=True,
    )


class Model:
    """A linkage model over tables that the engine holds already."""

    def __init__(self, profile: Profile, engine: Engine, tables: list[str]) -> None:
        self.profile, self.engine = profile, engine
        self._tables = tables
        self._linker = Linker(tables, _settings(profile), engine.splink, set_up_basic_logging=False)

    def train(self) -> None:
        """Estimates prior, u and m from the records alone; raises TooLittleToLearn."""
        training: Training = self.profile.training
        estimate = self._linker.training
        certain: list[str | BlockingRuleCreator] = [block_on(*columns) for columns in training.certain]
        if not certain:
            raise TooLittleToLearn("no two columns are filled that prove a match together")
        estimate.estimate_probability_two_random_records_match(certain, recall=training.certain_recall)
        if self._linker._settings_obj._probability_two_random_records_match == 0:
            raise TooLittleToLearn("no two records agree on what proves a match")
        estimate.estimate_u_using_random_sampling(max_pairs=training.sampled_pairs, seed=training.seed)
        blocks = [columns for columns in training.blocks if self._agreeing_pairs(columns) >= ENOUGH_PAIRS]
        if not blocks:
            raise TooLittleToLearn(f"no column on which {ENOUGH_PAIRS} pairs agree")
        for columns in blocks:
            estimate.estimate_parameters_using_expectation_maximisation(
                block_on(*columns), estimate_without_term_frequencies=True
            )
        self._smooth()

    def _agreeing_pairs(self, columns: tuple[str, ...]) -> int:
        """Splink drops a comparison for good when a training block holds no pair: it is not asked."""
        listed = ", ".join(columns)
        present = " and ".join(f"{column} is not null" for column in columns)
        # Between two files n * m; within one n * (n - 1) / 2.
        counted = [f"select {listed}, count(*) as n from {table} where {present} group by {listed}" for table in self._tables]
        if len(counted) == 1:
            sql = f"select sum(n * (n - 1) / 2) as pairs from ({counted[0]})"
        else:
            equal = " and ".join(f"a.{column} = b.{column}" for column in columns)
            sql = f"select sum(a.n * b.n) as pairs from ({counted[0]}) as a join ({counted[1]}) as b on {equal}"
        return int(self.engine.fetch(sql).column("pairs")[0].as_py() or 0)

    def _smooth(self) -> None:
        """Half an observation more for every level: what few records never showed is rare, not impossible."""
        sizes = [int(self.engine.fetch(f"select count(*) as n from {table}").column("n")[0].as_py()) for table in self._tables]
        total = sizes[0] * sizes[1] if len(sizes) == 2 else sizes[0] * (sizes[0] - 1) / 2
        settings = self._linker._settings_obj
        matches = max(settings._probability_two_random_records_match * total, 1.0)
        sampled = min(self.profile.training.sampled_pairs, total)
        for comparison in settings.comparisons:
            levels = [level for level in comparison.comparison_levels if not level.is_null_level]
            for level in levels:
                if any(other._has_estimated_m_values for other in levels):
                    level.m_probability = _smoothed(level._trained_m_median, matches, len(levels))
                if any(other._has_estimated_u_values for other in levels):
                    level.u_probability = _smoothed(level._trained_u_median, sampled, len(levels))

    def parameters(self) -> list[dict[str, Any]]:
        """Every level with m, u and weight, for whoever wants to know what the model believes."""
        found = []
        for comparison in self._linker._settings_obj.comparisons:
            for level in comparison.comparison_levels:
                if level.is_null_level:
                    continue
                m, u = level.m_probability, level.u_probability
                found.append({"comparison": comparison.output_column_name, "level": level.label_for_charts, "m": m, "u": u})
        return found

    def score(self, at_least: float) -> Pairs:
        """Candidate pairs with at least this probability, in the order of their records."""
        predicted = self._linker.inference.predict(threshold_match_probability=at_least)
        columns = [f"{ROW}_l", f"{ROW}_r", "match_weight"]
        names = [comparison.name for comparison in self.profile.comparisons]
        columns += [f"gamma_{name}" for name in names]
        columns += [f"log2({_bayes_factor(comparison)}) as weight_{comparison.name}" for comparison in self.profile.comparisons]
        table = self.engine.fetch(f"select {', '.join(columns)} from {predicted.physical_name} order by {ROW}_l, {ROW}_r")

        def column(name: str, kind: Any) -> npt.NDArray[Any]:
            return np.asarray(table.column(name).to_numpy(), dtype=kind)

        return Pairs(
            left=column(f"{ROW}_l", np.int64),
            right=column(f"{ROW}_r", np.int64),
            weight=column("match_weight", np.float64),
            evidence={name: column(f"weight_{name}", np.float32) for name in names},
            level={name: column(f"gamma_{name}", np.int8) for name in names},
        )


def _smoothed(probability: float | None, observations: float, levels: int) -> float:
    return ((probability or 0.0) * observations + 0.5) / (observations + 0.5 * levels)


def _bayes_factor(comparison: Comparison) -> str:
    adjusted = any(level.frequency_of for level in comparison.levels)
    return f"bf_{comparison.name}" + (f" * bf_tf_adj_{comparison.name}" if adjusted else "")
