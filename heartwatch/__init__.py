"""HeartWatch: detects in real time people whose heart rate leaves their personal range while they are at rest."""
