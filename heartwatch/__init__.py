"""HeartWatch: people whose heart rate leaves their own range while they are not moving."""
