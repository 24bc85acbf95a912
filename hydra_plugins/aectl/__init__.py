"""aectl's Hydra plugins. Hydra imports them whenever aectl starts, so they must not import slow modules."""
