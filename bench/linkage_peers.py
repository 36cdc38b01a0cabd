"""The peers of bench linkage: Splink as its demonstrations configure it, and the recipe of recordlinkage's documentation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import recordlinkage
import splink.comparison_library as cl
from recordlinkage.index import Block
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from splink import DuckDBAPI, Linker, SettingsCreator, block_on

from bench.linkage_sets import LabelledSet, Links

logging.getLogger("splink").setLevel(logging.ERROR)

SEED = 1


def connected(records: int, links: Links, threshold: float) -> npt.NDArray[np.int64]:
    """Clusters as Splink makes them: whatever hangs together by pairs at or above the threshold."""
    kept = links.probability >= threshold
    edges = coo_array((np.ones(kept.sum()), (links.left[kept], links.right[kept])), shape=(records, records))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)


# Splink: docs/demos/examples/duckdb/{febrl3,febrl4,deduplicate_50k_synthetic}, the fuller model where a page shows two.


def splink_febrl3() -> dict[str, Any]:
    """The settings of the page "Deduplicating the febrl3 dataset"."""
    return {
        "link_type": "dedupe_only",
        "blocks": [block_on(name) for name in ("soc_sec_id", "given_name", "surname", "date_of_birth", "postcode")],
        "comparisons": [
            cl.NameComparison("given_name"),
            cl.NameComparison("surname"),
            cl.DateOfBirthComparison("date_of_birth", input_is_string=True, datetime_format="%Y%m%d"),
            cl.DamerauLevenshteinAtThresholds("soc_sec_id", [2]),
            cl.ExactMatch("street_number").configure(term_frequency_adjustments=True),
            cl.ExactMatch("postcode").configure(term_frequency_adjustments=True),
        ],
        "certain": [
            block_on("soc_sec_id"),
            block_on("given_name", "surname", "date_of_birth"),
            "l.given_name = r.surname and l.surname = r.given_name and l.date_of_birth = r.date_of_birth",
        ],
        "recall": 0.9,
        "max_pairs": 1e6,
        "train": [block_on("date_of_birth"), block_on("postcode")],
        "without_frequencies": False,
    }


def splink_febrl4() -> dict[str, Any]:
    """The detailed model of the page "Linking the febrl4 datasets"."""
    return {
        "link_type": "link_only",
        "blocks": [
            block_on("given_name", "surname"),
            "l.given_name = r.surname and l.surname = r.given_name",
            block_on("date_of_birth"),
            block_on("soc_sec_id"),
            block_on("state", "address_1"),
            block_on("street_number", "address_1"),
            block_on("postcode"),
        ],
        "comparisons": [
            cl.NameComparison("given_name").configure(term_frequency_adjustments=True),
            cl.NameComparison("surname").configure(term_frequency_adjustments=True),
            cl.DateOfBirthComparison(
                "date_of_birth", input_is_string=True, datetime_format="%Y%m%d", invalid_dates_as_null=True
            ),
            cl.DamerauLevenshteinAtThresholds("soc_sec_id", [1, 2]),
            cl.ExactMatch("street_number").configure(term_frequency_adjustments=True),
            cl.DamerauLevenshteinAtThresholds("postcode", [1, 2]).configure(term_frequency_adjustments=True),
        ],
        "certain": [block_on("soc_sec_id"), block_on("given_name", "surname", "date_of_birth")],
        "recall": 0.8,
        "max_pairs": 1e6,
        "train": [block_on("date_of_birth"), block_on("postcode")],
        "without_frequencies": True,
    }


def splink_historical_persons() -> dict[str, Any]:
    """The settings of the page "Linking a dataset of real historical persons"."""
    return {
        "link_type": "dedupe_only",
        "blocks": [
            block_on("substr(first_name,1,3)", "substr(surname,1,4)"),
            block_on("surname", "dob"),
            block_on("first_name", "dob"),
            block_on("postcode_fake", "first_name"),
            block_on("postcode_fake", "surname"),
            block_on("dob", "birth_place"),
            block_on("substr(postcode_fake,1,3)", "dob"),
            block_on("substr(postcode_fake,1,3)", "first_name"),
            block_on("substr(postcode_fake,1,3)", "surname"),
            block_on("substr(first_name,1,2)", "substr(surname,1,2)", "substr(dob,1,4)"),
        ],
        "comparisons": [
            cl.ForenameSurnameComparison("first_name", "surname", forename_surname_concat_col_name="first_name_surname_concat"),
            cl.DateOfBirthComparison("dob", input_is_string=True),
            cl.PostcodeComparison("postcode_fake"),
            cl.ExactMatch("birth_place").configure(term_frequency_adjustments=True),
            cl.ExactMatch("occupation").configure(term_frequency_adjustments=True),
        ],
        "certain": [
            block_on("first_name", "surname", "dob"),
            block_on("substr(first_name,1,2)", "surname", "substr(postcode_fake,1,2)"),
            block_on("dob", "postcode_fake"),
        ],
        "recall": 0.6,
        "max_pairs": 1e7,
        "train": [block_on("first_name", "surname"), block_on("dob")],
        "without_frequencies": True,
    }


_SPLINK = {"febrl3": splink_febrl3, "febrl4": splink_febrl4, "historical_persons": splink_historical_persons}
# Where the page clusters; febrl3's does not.
SPLINK_CLUSTERS_AT = {"febrl3": 0.95, "febrl4": 0.99, "historical_persons": 0.95}


def splink_demonstration(labelled: LabelledSet) -> Links:
    """Splink in its documented configuration on the same records."""
    demo = _SPLINK[labelled.name]()
    files = [file.assign(row=file.index) for file in labelled.files]
    if labelled.name == "historical_persons":
        files = [file.assign(first_name_surname_concat=file["first_name"] + " " + file["surname"]) for file in files]
    settings = SettingsCreator(
        link_type=demo["link_type"],
        unique_id_column_name="row",
        blocking_rules_to_generate_predictions=demo["blocks"],
        comparisons=demo["comparisons"],
    )
    linker = Linker(files, settings, DuckDBAPI(), set_up_basic_logging=False)
    linker.training.estimate_probability_two_random_records_match(demo["certain"], recall=demo["recall"])
    linker.training.estimate_u_using_random_sampling(max_pairs=demo["max_pairs"], seed=SEED)
    for rule in demo["train"]:
        linker.training.estimate_parameters_using_expectation_maximisation(
            rule, estimate_without_term_frequencies=demo["without_frequencies"]
        )
    found = linker.inference.predict(threshold_match_probability=1e-4).as_pandas_dataframe()  # type: ignore[no-untyped-call]
    links = Links(found["row_l"].to_numpy(), found["row_r"].to_numpy(), found["match_probability"].to_numpy())
    cluster = connected(len(labelled.records), links, SPLINK_CLUSTERS_AT[labelled.name])
    return Links(links.left, links.right, links.probability, cluster)


# recordlinkage: "Data deduplication" and "Link two datasets" for febrl; the same steps where nothing is documented.


def _candidates(labelled: LabelledSet) -> pd.MultiIndex:
    index = recordlinkage.Index()
    if labelled.name == "historical_persons":
        for columns in (["first_name", "surname"], ["dob"], ["postcode_fake"]):
            index.add(Block(left_on=columns, right_on=columns))
    else:
        index.block(left_on="given_name", right_on="given_name")
    return index.index(*labelled.files)


def _compared(labelled: LabelledSet, candidates: pd.MultiIndex) -> pd.DataFrame:
    compare = recordlinkage.Compare()
    if labelled.name == "historical_persons":
        compare.string("first_name", "first_name", method="jarowinkler", threshold=0.85)
        compare.string("surname", "surname", method="jarowinkler", threshold=0.85)
        for column in ("dob", "postcode_fake", "birth_place", "occupation"):
            compare.exact(column, column)
    else:
        compare.exact("given_name", "given_name")
        compare.string("surname", "surname", method="jarowinkler", threshold=0.85)
        for column in ("date_of_birth", "suburb", "state"):
            compare.exact(column, column)
        compare.string("address_1", "address_1", threshold=0.85)
    return compare.compute(candidates, *labelled.files)


def recordlinkage_classic(labelled: LabelledSet) -> dict[str, Links]:
    """`threshold`: more than three of six columns agree, as its pages do. `ecm`: its unsupervised classifier on the same."""
    features = _compared(labelled, _candidates(labelled))
    matches = {"threshold": features.index[features.sum(axis=1) > 3]}
    matches["ecm"] = recordlinkage.ECMClassifier(init="jaro", binarize=None).fit_predict((features > 0).astype(int))
    return {name: _certain(labelled, found) for name, found in matches.items()}


def _certain(labelled: LabelledSet, found: pd.MultiIndex) -> Links:
    left = np.asarray(found.get_level_values(0), dtype=np.int64)
    right = np.asarray(found.get_level_values(1), dtype=np.int64)
    links = Links(left, right, np.ones(len(found)))
    return Links(left, right, links.probability, connected(len(labelled.records), links, 0.5))
