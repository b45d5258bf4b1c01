"""Make `wine_synthetic.csv`, a synthetic sample that resembles the UCI white wine data.

It is made from the summary figures written below and from nothing else: for wines of low, medium and high
quality, the quantiles of each of the eleven measurements and their correlations, taken once from the white
wine data of

    P. Cortez, A. Cerdeira, F. Almeida, T. Matos and J. Reis, "Modeling wine preferences by data mining from
    physicochemical properties", Decision Support Systems 47(4), 2009.

So it has the same columns, similar marginals and similar correlations, and none of that data's rows. It is
there for trying Mooring; it says nothing about wine.

    python -m mooring.demo.make_wine_synthetic
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr

CSV = Path(__file__).with_name("wine_synthetic.csv")
SEED = 2009

DECIMALS = {
    "fixed acidity": 1,
    "volatile acidity": 2,
    "citric acid": 2,
    "residual sugar": 1,
    "chlorides": 3,
    "free sulfur dioxide": 0,
    "total sulfur dioxide": 0,
    "density": 5,
    "pH": 2,
    "sulphates": 2,
    "alcohol": 1,
}


class Wines(NamedTuple):
    """A group of wines: how many rows to make of each quality, and what the measurements are like.

    A line of `quantiles` is a level, then the value there of each column in the order above. `correlations`
    are those of the columns' normal scores, in the same order, without the upper half.
    """

    rows: dict[int, int]
    quantiles: str
    correlations: str


LOW = Wines(
    rows={3: 14, 4: 116, 5: 1041},
    quantiles="""
        0  4.2  0.1    0   0.6 0.009   2   9 0.98722 2.79 0.25     8
     0.01 5.14 0.14 0.02   0.8 0.023   5  40 0.99001 2.87  0.3   8.6
     0.05 5.79 0.17 0.13  1.05  0.03   8  71 0.99119 2.95 0.34   8.8
      0.1    6  0.2 0.18   1.2 0.034  11  86 0.99186    3 0.36   8.9
      0.2  6.3 0.23 0.23   1.5 0.039  17 109  0.9928 3.06  0.4   9.1
      0.3  6.5 0.25 0.26     2 0.042  23 124  0.9936  3.1 0.43   9.3
      0.4  6.7 0.27 0.29   4.6 0.044  28 137 0.99434 3.13 0.45   9.4
      0.5  6.8 0.29 0.32  6.62 0.047  34 149 0.99514 3.16 0.47   9.6
      0.6  7.1 0.31 0.35     8 0.049  39 162  0.9958 3.19 0.49   9.9
      0.7  7.3 0.33 0.39  9.93 0.052  46 176  0.9966 3.22 0.52  10.2
      0.8  7.6 0.37 0.45 12.06 0.056  52 187  0.9976 3.27 0.55  10.6
      0.9  8.1 0.45 0.51    15 0.064  60 206 0.99856 3.35 0.62  11.1
     0.95  8.6 0.54 0.59 16.75 0.086  66 220 0.99954 3.43 0.68  11.5
    0.975  9.1 0.61 0.69 18.15 0.133  71 234       1 3.51 0.72    12
     0.99  9.6 0.69 0.74  19.3 0.177  83 251 1.00044  3.6 0.78 12.46
    0.999 10.3 0.96 0.87 22.22 0.294 141 352 1.00212 3.77 0.88  13.5
        1 11.8  1.1    1  23.5 0.346 289 440 1.00241 3.79 0.88  13.6
    """,
    correlations="""
     1.00
    -0.02  1.00
     0.34 -0.20  1.00
     0.06  0.04  0.16  1.00
    -0.04  0.12  0.07  0.19  1.00
    -0.11 -0.06  0.11  0.40  0.15  1.00
    -0.01  0.12  0.14  0.43  0.29  0.69  1.00
     0.20  0.06  0.21  0.85  0.33  0.40  0.51  1.00
    -0.45 -0.05 -0.26 -0.10  0.01  0.02  0.04 -0.04 1.00
     0.02  0.04  0.11  0.15  0.17  0.10  0.28  0.21 0.10  1.00
     0.05 -0.08 -0.09 -0.44 -0.38 -0.35 -0.39 -0.68 0.11 -0.05 1.00
    """,
)

MEDIUM = Wines(
    rows={6: 1571},
    quantiles="""
        0   3.8 0.08    0   0.7 0.015   3  18 0.98758 2.72 0.23   8.5
     0.01     5 0.12 0.09   0.9 0.021   7  55 0.98889 2.88  0.3   8.8
     0.05   5.6 0.15  0.2   1.1 0.027  14  76  0.9897 2.96 0.34     9
      0.1   5.9 0.17 0.23   1.2  0.03  17  88 0.99036    3 0.36   9.2
      0.2   6.2 0.19 0.26   1.5 0.034  22 101 0.99133 3.06 0.39   9.5
      0.3   6.4 0.21 0.28     2 0.037  26 112   0.992 3.11 0.42   9.8
      0.4   6.6 0.23  0.3   3.5  0.04  30 121  0.9928 3.14 0.45  10.1
      0.5   6.8 0.25 0.32   5.3 0.043  34 132 0.99366 3.18 0.48  10.5
      0.6     7 0.27 0.34   7.1 0.045  38 145  0.9946 3.22  0.5  10.8
      0.7   7.2 0.29 0.37   8.6 0.048  43 158 0.99544 3.25 0.54  11.2
      0.8   7.5 0.32  0.4 11.16 0.051  49 172  0.9966 3.31 0.57  11.6
      0.9   7.9 0.37 0.49  13.8 0.057  56 193   0.998 3.38 0.64  12.3
     0.95   8.3 0.42 0.52    16 0.064  63 212  0.9988 3.46  0.7  12.6
    0.975  8.51 0.46 0.63  17.3 0.089  69 224 0.99946 3.51 0.77  12.9
     0.99  9.01 0.58 0.74 18.95  0.16  78 240 1.00038  3.6 0.82 13.14
    0.999 10.56 0.71    1 30.51 0.207 106 253 1.00885 3.79    1 13.76
        1  14.2 0.96 1.66  65.8 0.255 112 294 1.03898 3.81 1.06    14
    """,
    correlations="""
     1.00
    -0.06  1.00
     0.33 -0.13  1.00
     0.07  0.15 -0.02  1.00
     0.08 -0.03  0.04  0.18  1.00
     0.01 -0.06  0.06  0.30  0.19  1.00
     0.13  0.14  0.09  0.38  0.29  0.61  1.00
     0.25 -0.02  0.09  0.77  0.42  0.34  0.51  1.00
    -0.39 -0.06 -0.12 -0.14  0.01 -0.01  0.05 -0.02 1.00
    -0.01 -0.04  0.09 -0.01  0.08  0.01  0.16  0.12 0.16  1.00
    -0.07  0.12 -0.05 -0.44 -0.47 -0.32 -0.41 -0.80 0.08 -0.07 1.00
    """,
)

HIGH = Wines(
    rows={7: 629, 8: 125, 9: 4},
    quantiles="""
        0 3.9 0.08 0.01   0.8 0.012   5  34 0.98711 2.84 0.22   8.5
     0.01   5 0.11 0.14     1 0.018  10  65 0.98821  2.9 0.28   8.7
     0.05 5.4 0.14 0.23   1.2 0.024  14  78 0.98913 2.96 0.32     9
      0.1 5.8 0.16 0.25   1.3 0.027  18  87  0.9895    3 0.36   9.5
      0.2 6.1 0.18 0.27   1.6  0.03  23  97 0.99015 3.08 0.39  10.4
      0.3 6.4  0.2 0.29     2 0.033  27 106 0.99073 3.13 0.42  10.9
      0.4 6.5 0.23  0.3   2.6 0.035  30 114  0.9912 3.16 0.44  11.2
      0.5 6.7 0.25 0.31  3.88 0.037  33 122 0.99173  3.2 0.48  11.5
      0.6 6.9 0.28 0.33   4.9 0.039  36 130  0.9923 3.26 0.51  11.9
      0.7 7.1  0.3 0.35  6.43 0.042  40 140 0.99321  3.3 0.55  12.2
      0.8 7.3 0.34 0.38   8.9 0.046  45 151  0.9944 3.36  0.6  12.6
      0.9 7.7  0.4 0.42  12.8 0.051  51 168 0.99706 3.42 0.68  12.9
     0.95   8 0.44 0.49  14.4 0.056  58 187  0.9984 3.48 0.75  13.2
    0.975 8.2 0.48 0.49 14.85 0.059  65 200   0.999 3.54 0.82  13.5
     0.99 8.7 0.53 0.57  15.5 0.065  76 212  0.9998 3.59 0.93  13.7
    0.999 9.2 0.66 0.74 19.22 0.129 105 229 1.00059 3.76 0.99 14.05
        1 9.2 0.76 0.74 19.25 0.135 108 229  1.0006 3.82 1.08  14.2
    """,
    correlations="""
     1.00
    -0.09  1.00
     0.25 -0.23  1.00
     0.22  0.09 -0.03  1.00
     0.18 -0.30  0.09  0.20  1.00
     0.03 -0.14  0.12  0.11  0.19  1.00
     0.19 -0.07  0.08  0.38  0.38  0.58  1.00
     0.48 -0.29  0.15  0.64  0.49  0.18  0.50  1.00
    -0.48  0.05 -0.07 -0.31 -0.11  0.02 -0.03 -0.13 1.00
    -0.07 -0.07 -0.01 -0.13  0.09  0.11  0.02  0.08 0.20  1.00
    -0.32  0.50 -0.14 -0.30 -0.53 -0.19 -0.40 -0.82 0.13 -0.08 1.00
    """,
)


def sample(wines: Wines, random: np.random.RandomState) -> pd.DataFrame:
    """Draw a group's wines from a Gaussian copula: correlated normals, each bent to its quantiles."""
    levels, *quantiles = np.loadtxt(wines.quantiles.splitlines(), unpack=True)
    correlations = np.eye(len(DECIMALS))
    for row, line in enumerate(wines.correlations.strip().splitlines()):
        correlations[row, : row + 1] = correlations[: row + 1, row] = np.array(line.split(), dtype=float)
    quality = [quality for quality, count in wines.rows.items() for _ in range(count)]
    normals = random.standard_normal((len(quality), len(DECIMALS))) @ np.linalg.cholesky(correlations).T
    columns = {
        column: np.interp(ndtr(normals[:, i]), levels, quantiles[i]).round(decimals)
        for i, (column, decimals) in enumerate(DECIMALS.items())
    }
    return pd.DataFrame(columns | {"quality": quality})


def make() -> pd.DataFrame:
    """Return the sample: the same one each time, because RandomState's numbers are frozen for good."""
    random = np.random.RandomState(SEED)
    wines = pd.concat([sample(group, random) for group in (LOW, MEDIUM, HIGH)])
    return wines.iloc[random.permutation(len(wines))].reset_index(drop=True)


def to_csv(wines: pd.DataFrame) -> str:
    """Return the sample as CSV, written as the UCI data is: names in quotes, and 7 rather than 7.0."""
    lines = [",".join(f'"{column}"' for column in wines)]
    lines += [",".join(f"{value:.6g}" for value in row) for row in wines.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the sample beside this file."""
    CSV.write_text(to_csv(make()), encoding="utf-8", newline="\n")
    print(f"wrote {CSV}")


if __name__ == "__main__":
    main()
