"""Operations written for a CPU's speed."""
