"""Driver packs: what a guest needs to run on each platform. Data only."""
