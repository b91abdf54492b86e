"""Preference losses, one file each; the contract is in `dpo_bench.contract`."""
