"""What a flow's process gets of the worker's environment: settings of opsd and its services, and of the libraries it uses.

Everything else stays behind, such as what the worker's user holds for other programs. A variable that a plug-in needs
besides is named in OPSD_PASS, separated by commas.
"""

from collections.abc import Mapping

from tasks.runtime.secrets import without_credentials

_NAMES = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "TERM", "PWD",
    "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "DO_NOT_TRACK", "TQDM_DISABLE",
    "NO_COLOR", "COLUMNS", "CUBLAS_WORKSPACE_CONFIG",
}
_PREFIXES = (
    "OPSD_", "PREFECT_", "MLFLOW_", "AWS_", "PYTHON", "LC_", "XDG_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_",
    "NUMEXPR_", "VECLIB_", "MALLOC_", "BLIS_", "TORCH", "PYTORCH_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_",
    "TOKENIZERS_", "SAFETENSORS_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "HSA_", "GPU_", "MPL",
)
# Of the servers alone: their databases, passwords and keys.
_NEVER = ("PREFECT_SERVER_", "PREFECT_API_DATABASE_", "MLFLOW_FLASK_", "MLFLOW_AUTH_", "MLFLOW_SERVER_")
_NEVER += ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI", "MLFLOW_CRYPTO_")


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` that a flow needs, passwords taken out of its addresses."""
    asked = {name.strip() for name in environ.get("OPSD_PASS", "").split(",")}
    return without_credentials({name: value for name, value in environ.items() if name in asked or _passes(name)})


def _passes(name: str) -> bool:
    if name.startswith(_NEVER):
        return False
    return name.upper() in _NAMES or name.startswith(_PREFIXES)
