"""What the embedded data sets are made of: figures that step, bend and reach, random draws, and the writing of many."""
