"""Verification shares with growth how files are read and what things are called, and no rule: all that it imports from
the rest of the package is listed.
"""

from __future__ import annotations

import ast

from tests.helpers.paths import PACKAGE

SHARED = {
    "ckptgrow.addresses.address": {"local_path"},
    "ckptgrow.choices": {"VerifyDevice", "VerifyDtype", "VerifyLevel"},
    # storage and formats: what lies where, and how it is read
    "ckptgrow.storage.files.archive_signs": {"is_archive", "mentions"},
    "ckptgrow.storage.files.json_files": {"LARGEST_LOG", "read_json"},
    "ckptgrow.storage.fingerprint": {"Fingerprint", "flat_value"},
    "ckptgrow.storage.cores": {"usable_cores"},
    "ckptgrow.storage.one_thread": {"on_one_thread"},
    "ckptgrow.storage.pickles.opaque": {"Opaque"},
    "ckptgrow.storage.tensors": {
        "InMemory",
        "LazyTensor",
        "Made",
        "Stored",
        "bytes_of",
        "chunks",
        "is_lazy",
        "merged",
        "num_elements",
        "unflattened",
        "whole",
    },
    "ckptgrow.storage.code_blocks": {"InBlocks"},  # which numbers a file keeps in 8 bits, and by which map
    "ckptgrow.storage.tree": {"path_text", "with_node"},
    "ckptgrow.formats.bitsandbytes_records": {"CODE_MAPS"},
    "ckptgrow.formats.checkpoint": {"Checkpoint"},
    "ckptgrow.formats.dcp": {"Keys"},
    "ckptgrow.formats.huggingface": {"SAFETENSORS"},
    "ckptgrow.formats.known_formats": {"read_checkpoint"},
    "ckptgrow.formats.lightning": {"GROWTH_KEY"},
    "ckptgrow.formats.sidecar_files": {"CONFIG", "TRAINER_STATE", "Files"},
    "ckptgrow.data.token_texts": {"BYTES", "ROLES", "TOKENIZER_FILES", "tokenizer_in"},  # what tokenizers are called
    # state and families: names, layouts, sizes, transformers' own models
    "ckptgrow.state.architecture": {"config_errors"},
    "ckptgrow.state.claim": {"Claimed"},
    # a dense state as a mixture: real models' logits and gradients judge it
    "ckptgrow.state.mixture_config": {"mixture_architecture"},
    "ckptgrow.state.mixture_of_dense": {"as_mixture"},
    "ckptgrow.state.mixture_terms": {"ROUTER"},
    "ckptgrow.state.model": {"load_model"},
    "ckptgrow.state.streamed_model": {"StreamedModel", "streamed_model"},
    "ckptgrow.state.opening": {"TrainingState", "open_state", "understood"},
    "ckptgrow.state.optimizer_kinds": {"keys_in", "recognised"},  # which optimizer it is; what follows is not shared
    "ckptgrow.state.optimizer_state": {"OptimizerState", "ParameterGroup"},
    "ckptgrow.state.run_data": {"DATA", "DIRECTORY", "TOKENIZER"},
    "ckptgrow.state.train_schedule": {"Schedule"},  # the function whose fields a state keeps
    "ckptgrow.families.family": {"Family", "Sparse"},
    # spaces: which coordinate copies which; no write, no read, no gather, no draw
    "ckptgrow.spaces.growth": {
        "BoolVector",
        "FRESH",
        "FloatVector",
        "Growth",
        "IntVector",
        "copies",
        "identities",
        "padded",
        "product",
    },
    "ckptgrow.spaces.layout": {"Axis", "Layout", "Role", "parse"},
    "ckptgrow.spaces.layers": {"NEW_LAYERS", "LayerKind"},
    "ckptgrow.spaces.selection": {"selected"},
    "ckptgrow.errors": {"DataError", "OptimizerError", "RequestError", "listing"},
}


def test_verification_imports_exactly_this_from_the_rest_of_the_package() -> None:
    found: dict[str, set[str]] = {}
    for path in (PACKAGE / "verification").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("ckptgrow."):
                if not str(node.module).startswith("ckptgrow.verification."):
                    found.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("ckptgrow") for alias in node.names), path
    assert found == SHARED
