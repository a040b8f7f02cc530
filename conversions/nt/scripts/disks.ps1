# By p2v: brings the disks of this machine online, by the names in their partition tables.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$guids = @(@GUIDS@)
$signatures = @(@SIGNATURES@)
Get-Disk | Where-Object {
    ($guids -contains $_.Guid) -or (($_.PartitionStyle -eq 'MBR') -and ($signatures -contains $_.Signature))
} | ForEach-Object {
    if ($_.IsOffline) {
        Set-Disk -Number $_.Number -IsOffline $false
        Write-Output "p2v: disk $($_.Number) is online"
    }
    if ($_.IsReadOnly) { Set-Disk -Number $_.Number -IsReadOnly $false }
}
