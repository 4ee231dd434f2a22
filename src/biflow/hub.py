"""Models of the Hugging Face Hub: from the id `user/name`, or `user/name@revision`, to a folder, and back."""

import os
import re
from pathlib import Path
from typing import Any

from biflow.errors import UserError, os_error

ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
NEEDED = ("config.json", "diffusion_pytorch_model.safetensors")
# All that is downloaded of a repository. Nothing in it is a program or a pickle.
FILES = [*NEEDED, "diffusion_pytorch_model.ema.safetensors", "first/*.png", "first/moments.safetensors"]
FILES += ["evidence.json", "model_index.json", "README.md", "stream.webp", "LICENSE*", "NOTICE*"]


def is_id(model: Path | str, *, local: bool = True) -> bool:
    """Whether this has the form of an id of the Hub, `user/name`, and, if `local`, is no file or folder here."""
    return not (local and os.path.lexists(model)) and ID.fullmatch(_text(model)) is not None


def model_folder(model: Path | str, **settings: Any) -> Path:
    """The local folder of a model: `model` itself, or what the Hub holds under that id.

    Files are downloaded into the cache of huggingface_hub. Without a network, what is there already is used. `settings`
    are those of its `snapshot_download`, such as `token` and `cache_dir`.

    Raises:
        UserError: an id that cannot be read: no network, no such model or revision, or no permission.
    """
    if not is_id(model):
        return Path(model)
    found = ID.fullmatch(_text(model))
    assert found
    name, revision = found.groups()
    folder = _downloaded(name, revision, settings)
    if missing := [file for file in NEEDED if not (folder / file).exists()]:
        what = f"{_page(name)} is not a biflow model: it has no {missing[0]}"
        raise UserError(f"{what}. (Weights are read as safetensors only, never as pickles.)")
    return folder


def repository(folder: Path) -> str | None:
    """The id of the Hub's model, with its commit, that `folder` was downloaded from; None for other folders."""
    parts = folder.absolute().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return f"{parts[-3].removeprefix('models--').replace('--', '/')}@{parts[-1][:12]}"


def _downloaded(name: str, revision: str | None, settings: dict[str, Any]) -> Path:
    from huggingface_hub import errors, snapshot_download

    at = f" at revision {revision}" if revision else ""
    try:
        settings = {"allow_patterns": FILES, "library_name": "biflow", **settings}
        return Path(snapshot_download(name, revision=revision, **settings))
    except errors.GatedRepoError as error:
        ask = f"Ask for access on {_page(name)}, then log in with `hf auth login`, or set HF_TOKEN."
        raise UserError(f"{name} is a gated model, and you have no access yet. {ask}") from error
    except errors.RepositoryNotFoundError as error:
        none = f"There is no folder {name}, and no model {name} on the Hugging Face Hub that you may read"
        raise UserError(f"{none}. Check the name; for a private one, log in with `hf auth login`.") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision {revision}; {_page(name)}/commits/main lists them.") from error
    except errors.HFValidationError as error:
        raise UserError(f"There is no folder {name}, and it is not the id of a model: {error}") from error
    except Exception as error:  # of three HTTP libraries, depending on the version of huggingface_hub
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the network
            raise os_error(error, error.filename or "the cache of huggingface_hub") from error
        files = f"{', '.join(NEEDED)} and the folder first"
        raise UserError(
            f"There is no folder {name}: check the path. If this is the id of a model on the Hugging Face Hub, the "
            f"model{at} cannot be downloaded ({_reason(error)}). With a network, get {files} from "
            f"{_page(name)}/tree/{revision or 'main'}, put them into a folder, and give that folder."
        ) from error


def push(
    folder: Path,
    name: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model folder to the Hub as `name`, a new repository if there is none; the address of the commit.

    Raises:
        UserError: no network, nobody is logged in, or the account may not write there.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="biflow")
    try:
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        how = {"commit_message": commit_message or "Upload a biflow model", "create_pr": create_pr}
        commit = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=FILES, **how)
    except Exception as error:
        login = "Log in with `hf auth login` as an account that may write there, or set HF_TOKEN."
        raise UserError(f"{folder} cannot be uploaded to {_page(name)} ({_reason(error)}). {login}") from error
    return commit.commit_url


def _reason(error: BaseException) -> str:
    """Why a download failed, in a few words."""
    from huggingface_hub import errors

    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for one in causes:
        if isinstance(one, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        if isinstance(one, errors.HfHubHTTPError) and getattr(one, "response", None) is not None:
            return f"it answers {one.response.status_code}"
    return "it cannot be reached"


def _page(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def _text(model: Path | str) -> str:
    return model.as_posix() if isinstance(model, Path) else model
