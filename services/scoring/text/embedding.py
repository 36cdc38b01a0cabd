"""Vectors of characters and pairs from the company they keep, learnt from texts without labels.

Positive pointwise mutual information of neighbours, factorised (Levy, Goldberg & Dagan 2015): what word2vec finds, in
one sparse decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from services.scoring.text.network import Float32s
from services.scoring.text.vocabulary import FIRST, Numbers

# How far apart two may stand to be company.
NEAR = 4
# Frequent contexts count less, as word2vec's negative sampling has it.
SMOOTHING = 0.75
SPREAD = 0.3


def embeddings(texts: Sequence[Numbers], size: int, dimensions: int, seed: int) -> Float32s:
    """[size, dimensions]; zeros for what has no company."""
    apart = np.zeros(NEAR, np.int32)
    line = np.concatenate([part for text in texts for part in (text, apart)])
    company = sp.csr_matrix((size, size), dtype=np.float64)
    for distance in range(1, NEAR + 1):
        left, right = line[:-distance], line[distance:]
        known = (left >= FIRST) & (right >= FIRST)
        pairs = (left[known], right[known])
        company = company + sp.coo_matrix((np.ones(len(pairs[0])), pairs), shape=(size, size)).tocsr()
    company = (company + company.T).tocoo()
    often = np.bincount(company.row, company.data, size)
    context = often**SMOOTHING
    context /= max(context.sum(), 1e-9)
    information = np.log(company.data / (often[company.row] * context[company.col]))
    telling = information > 0
    matrix = sp.csr_matrix((information[telling], (company.row[telling], company.col[telling])), shape=(size, size))
    made = np.zeros((size, dimensions), np.float32)
    rank = min(dimensions, size - 1)
    if matrix.nnz:
        left_vectors, values, _ = randomized_svd(matrix, rank, n_iter=3, random_state=seed)
        made[:, :rank] = left_vectors * np.sqrt(values)
        made *= SPREAD / max(float(made[often > 0].std()), 1e-9)
    made[often == 0] = 0
    return made
