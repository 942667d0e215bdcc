"""The typed intermediate representation: types, programs, text form, verifier and reference evaluator."""
