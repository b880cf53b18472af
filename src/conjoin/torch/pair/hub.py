"""Uploading a model to the Hugging Face hub."""

import tempfile
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

from conjoin.errors import FileError


@runtime_checkable
class Savable(Protocol):
    """A model that can be saved to a folder."""

    def save_pretrained(self, save_directory: str | PathLike[str], *, max_shard_size: int | str = "5GB") -> None: ...


def push(
    model: Savable,
    repo_id: str,
    commit_message: str | None,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
    max_shard_size: int | str,
) -> str:
    """See EncoderDecoderModel.push_to_hub."""
    import huggingface_hub

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        hub = huggingface_hub.HfApi(token=token)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                hub.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(model).__name__} with conjoin",
                revision=revision,
                create_pr=create_pr,
            )
        except Exception as error:  # includes errors of its HTTP library, which we do not depend on
            reason = str(error).strip().partition("\n")[0]
            raise FileError(
                f"{repo_id} could not be uploaded to the hub. {type(error).__name__}: {reason}",
                hint="run `hf auth login` or pass token=; the id has the form your-name/model-name.",
            ) from error
    return str(getattr(commit, "commit_url", commit))
