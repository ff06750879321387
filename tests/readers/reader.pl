# Reads FILE COUNT times, as many bytes as -s says; prints what was wrong.
use strict;
my ($path, $count) = @ARGV;
my %good = map { $_ => 1 } ('a' x 8, 'b' x 100, 'c' x 3000);
my $bad = 0;
for (1 .. $count) {
    open(my $file, '<', $path) or die "$path: $!";
    my $size = -s $file;
    read($file, my $value, $size);
    close $file;
    $value .= "\0" x ($size - length $value);
    if (!$good{$value} && !$bad++) { warn length($value), ' ', substr($value, 0, 20), "\n" }
}
print "$count read, $bad wrong\n";
