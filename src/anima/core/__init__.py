"""The words every layer speaks: names and types, result messages, arithmetic on states."""
