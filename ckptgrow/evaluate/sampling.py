"""Text from a checkpoint, token by token: drawn from what the model predicts, by a generator of its own."""

from __future__ import annotations

import torch

from ckptgrow.errors import RequestError
from ckptgrow.evaluate.subject import Subject


@torch.no_grad()
def sampled_text(subject: Subject, prompt: str, num_tokens: int, temperature: float, seed: int) -> str:
    """What the model says behind a prompt: `num_tokens` tokens, each predicted from as many as the context holds.

    With a temperature of 0 the likeliest token is taken. Raises RequestError for a prompt without tokens.
    """
    tokens = [int(one) for one in subject.encoder.encode([prompt])[0]]
    if not tokens:
        raise RequestError("⟦prompt⟧: has no tokens, expected some text to go on from")
    generator = torch.Generator().manual_seed(seed)
    begun = len(tokens)
    for _ in range(num_tokens):
        seen = torch.tensor([tokens[-(subject.max_length or len(tokens)) :]], device=subject.model.device)
        logits = subject.model(input_ids=seen, use_cache=False).logits[0, -1].double().cpu()
        if temperature == 0:
            tokens.append(int(logits.argmax()))
        else:
            shares = torch.softmax(logits / temperature, dim=0)
            tokens.append(int(torch.multinomial(shares, 1, generator=generator)))
    return subject.tokenizer.decode(tokens[begun:])
