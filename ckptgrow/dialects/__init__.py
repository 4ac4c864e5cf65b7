"""How other trainers name, lay out and configure what transformers has too: tables of data, and their transforms."""
