"""What crosses a wire, as plain data: layout, rules, records, messages, frames, invites. No I/O, no torch.

Three of these formats outlive a release, because stored sessions and older peers hold them: the frame header
(`frames`), the round record (`records`) and the `RoundRule` (`rules`). Each carries its own version number.
"""
