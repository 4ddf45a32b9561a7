"""The networks' inputs from parts: features are extracted once and kept on disk."""
