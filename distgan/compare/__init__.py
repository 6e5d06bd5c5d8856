"""`distgan compare`: runs side by side, as tables or as one page that needs no network. Imports no torch."""
