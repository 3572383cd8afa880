full join ({other}) as compared using ({keys})
