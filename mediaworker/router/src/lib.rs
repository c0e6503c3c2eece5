//! The pure media graph: producers, consumers and what to forward to whom.
