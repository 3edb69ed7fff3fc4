"""Two models, one data set: do they say the same, from uint8 frame to decision?"""
