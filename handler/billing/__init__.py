"""Where every billed second goes: the meter, the journal, the ledger, and what is read from it."""
