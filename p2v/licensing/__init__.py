"""What a conversion costs: license tiers, and the ledger that meters them."""
