"""Which variables of its environment Mooring hands to what others wrote: models that it serves, jobs that train.

Its own holds tokens, keys and the state's password, of which a model knows nothing and needs nothing. So a name
has to be on a list, or in the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

_SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "HOSTNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TZDIR"),
    *("TMPDIR", "TEMP", "TMP", "XDG_*", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "MALLOC_*"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
_PYTHON = (
    *("PYTHON[A-Z]*", "VIRTUAL_ENV", "PYENV_ROOT", "CONDA_EXE", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_ROOT"),
    *("CONDA_SHLVL", "CONDA_PYTHON_EXE", "_CE_*", "MAMBA_EXE", "MAMBA_ROOT_PREFIX", "JAVA_HOME", "SPARK_HOME"),
    *("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"),
)
_THREADS = (
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "VECLIB_*", "NUMEXPR_*", "NUMBA_*"),
    *("RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_DEFAULT_MEMORY_POOL", "TOKENIZERS_PARALLELISM"),
)
_ACCELERATORS = (
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "ROCR_*", "HIP_*", "HSA_*"),
    *("TF_*", "XLA_*", "TORCH_*", "PYTORCH_*", "JAX_*"),
)
_MODEL_FILES = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "NLTK_DATA"),
    *("TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "TIKTOKEN_CACHE_DIR"),
)
_MLFLOW_SERVING = (
    *("MLFLOW_DEFAULT_PREDICTION_DEVICE", "MLFLOW_HUGGINGFACE_*", "MLFLOW_CONDA_HOME", "MLFLOW_ENV_ROOT"),
    *("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "MLFLOW_CONFIGURE_LOGGING", "MLFLOW_LOGGING_LEVEL"),
)
_TRAINING = ("MLFLOW_*", *(f"{each}_PROXY" for each in ("HTTP", "HTTPS", "ALL", "NO")))

MODEL_SERVER = (*_SYSTEM, *_PYTHON, *_THREADS, *_ACCELERATORS, *_MODEL_FILES, *_MLFLOW_SERVING)
"""What a model server gets without being asked; `*` and `[…]` are as in file names."""
JOB = (*MODEL_SERVER, *_TRAINING, *(name.lower() for name in _TRAINING if name.endswith("_PROXY")))
"""What a job that trains gets: it has to reach MLflow, too."""


def handed_on(environ: Mapping[str, str], allowed: Iterable[str], named: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables whose names are allowed, or that the settings name; patterns are as in file names.

    >>> own = {"PATH": "/bin", "LC_ALL": "C", "AWS_SECRET_ACCESS_KEY": "s", "STORE": "1"}
    >>> handed_on(own, MODEL_SERVER, ["STORE"])
    {'PATH': '/bin', 'LC_ALL': 'C', 'STORE': '1'}
    """
    patterns = (*allowed, *named)
    return {
        name: value for name, value in environ.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def without_own(environ: Mapping[str, str]) -> dict[str, str]:
    """Return all but Mooring's own variables: for the gate, which reads the log, and loads models.

    >>> without_own({"AWS_SECRET_ACCESS_KEY": "s", "MOORING_UI_TOKEN": "t"})
    {'AWS_SECRET_ACCESS_KEY': 's'}
    """
    return {name: value for name, value in environ.items() if not name.startswith("MOORING_")}
