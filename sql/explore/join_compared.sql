-- The groups of the other days beside those of the days that were asked for, also where only one side has them.
full join ({other}) as compared using ({keys})
