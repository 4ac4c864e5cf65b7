"""What tests ask of a growth's training state."""

from __future__ import annotations

from ckptgrow import StateRequest

MUP = StateRequest(lr_rule="mup")
