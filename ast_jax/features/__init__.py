"""From parts to the networks' inputs: extracted once, kept on disk."""
