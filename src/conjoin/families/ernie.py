"""ERNIE (Sun et al. 2019, arXiv:1904.09223; 2.0, arXiv:1907.12412): BERT, in some versions with a table of tasks."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert
from conjoin.families.names import weights
from conjoin.families.record import Role, masked_lm


class ErnieConfig(bert.BertConfig):
    """Fields of an ERNIE config.json.

    Args:
        use_task_id: Add a row of a table of tasks to every token: the first, as transformers does by default.
    """

    model_type = "ernie"
    task_type_vocab_size: int = 3
    use_task_id: bool = False


def stack(config: ErnieConfig, role: Role) -> spec.StackSpec:
    """BERT's stack, with the table of tasks."""
    plain = bert.stack(config, role)
    tasks = config.task_type_vocab_size if config.use_task_id else 0
    return replace(plain, embedding=replace(plain.embedding, tasks=tasks))


def body(stack: spec.StackSpec) -> NameTable:
    """ErnieModel's names."""
    return NameTable(weights({"embeddings.task_type_embeddings": "embed.tasks"})) + bert.body(stack)


FAMILY = masked_lm(
    ErnieConfig,
    "Ernie",
    stack,
    body,
    decoder="own",
    head=bert.head,
    prefixes=("ernie.",),
    known=("nghuyong/ernie-3.0-base-zh",),
)
