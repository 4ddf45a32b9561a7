"""How synthetic parts and their defects are drawn."""
